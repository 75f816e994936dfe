"""The commands, a file or a package each: `python -m experiments.NAME --help`. `recipes` has the
presets that the command train takes. Where the library is installed, this is the package
`arcface_jax.experiments`, and `arcface-jax NAME` calls them; so they import each other relatively.
"""

from arcface_jax.commands.help_page import answer_module

answer_module(__name__)
