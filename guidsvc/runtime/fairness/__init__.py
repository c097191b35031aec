"""Sharing by owner: nobody gets more because they ask more often."""
