"""The tests of guidsvc: one file a module, against real parts over real sockets."""
