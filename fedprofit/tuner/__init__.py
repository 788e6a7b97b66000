"""What a client owns and trains: the parameters beside the frozen backbone."""
