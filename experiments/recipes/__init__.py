"""`presets`: every configuration that the command train takes by name. The published ones lie
beside it, by the project that published them; `recipe` is what they are made of.
"""
