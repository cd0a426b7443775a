"""What runs things: the processes, what they deliver, and who looks after them."""
