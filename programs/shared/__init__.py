"""The parts that several programs use."""
