"""What a narrower export costs and gains."""
