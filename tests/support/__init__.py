"""What several tests need: real repos, servers and browsers, small data and slow references."""
