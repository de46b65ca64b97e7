"""The network: every module of SCORE, in the order data flows through it."""
