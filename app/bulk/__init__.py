"""Collections on this machine: millions of files to one table, resumed where it was interrupted."""
