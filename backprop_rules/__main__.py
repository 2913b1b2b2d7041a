"""`python -m backprop_rules` is the command `backprop-rules`."""

from backprop_rules.cli import main

if __name__ == "__main__":
    main()
