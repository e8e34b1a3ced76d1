"""Programs for accelerators, compiled without one, and what their compilers say of them."""
