"""The participant study: its design, its app, the analysis of its ratings."""
