"""What a person starts: commands over files."""
