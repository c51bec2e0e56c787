"""What leaderboards ask for, written from finished runs and checked before it is there."""
