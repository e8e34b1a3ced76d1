"""The 2012 AlexNet, executable."""

__version__ = "0.1.0"
