"""A small recipe on a cluster of this machine to which things happen: does it end with what a quiet run makes?"""
