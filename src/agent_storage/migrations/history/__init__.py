"""What the database knows of its migrations: yoyo's tables and our own, and the folder compared with them."""
