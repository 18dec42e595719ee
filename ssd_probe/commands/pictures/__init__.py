"""What is drawn of folders that other commands made."""
