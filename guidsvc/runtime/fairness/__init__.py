"""Fair sharing by caller, an owner or a client network: more requests give no larger share."""
