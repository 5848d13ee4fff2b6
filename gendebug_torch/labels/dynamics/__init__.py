"""What each training row goes through, recorded."""
