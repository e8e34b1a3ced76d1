"""What training batches cost."""
