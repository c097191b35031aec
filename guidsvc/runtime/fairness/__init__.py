"""Fair sharing by owner: an owner gets no larger share by sending more requests."""
