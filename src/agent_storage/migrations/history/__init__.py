"""The tracking tables of a database, yoyo's and the package's, and the folder compared with them."""
