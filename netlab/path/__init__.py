"""What happens to messages between client and server, place by place, seen from the kernel."""
