"""What a recipe says.

fields.py            the values that its keys may have
entries.py           its keys
analysis_entries.py  those of analyses
reading.py           from YAML, with the line of whatever is wrong
shipped.py           the recipes that come with safelox
"""
