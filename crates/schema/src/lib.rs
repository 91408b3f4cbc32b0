//! What an API server does to one object: validate, default, prune, CEL, patch. Pure.
