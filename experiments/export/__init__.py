"""What a narrower export costs and gains: `measure` reads it off, `report` makes the page."""
