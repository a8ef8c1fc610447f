"""Foreign files as data: nothing in them is executed, and what they say is checked before it is used."""
