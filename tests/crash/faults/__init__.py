"""What test_command_faults.py and test_service_faults.py are made of."""
