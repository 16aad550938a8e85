"""What hostile and unlucky clients send, and what breaks: tried on a real server process over real sockets."""
