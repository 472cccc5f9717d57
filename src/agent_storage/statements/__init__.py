"""What is known of a statement before anything is sent."""
