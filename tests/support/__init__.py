"""What tests share: servers, clients, factories, assertions."""
