"""Plants faults in the lines of a module and reports which of them the tests do not see."""
