"""Face recognition figures from plain arrays of embeddings and labels.

Verification (`verification`, `templates`, `roc`), identification (`search`, `identification`),
angles, quality and groups, each with intervals by `bootstrap`; `suite` runs them all.
"""
