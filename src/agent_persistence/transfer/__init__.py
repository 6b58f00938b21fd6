"""Import and export: files, and the tables of other stores."""
