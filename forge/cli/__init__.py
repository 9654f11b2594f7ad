"""The command line: parses, calls one engine function, hands the result to ui."""
