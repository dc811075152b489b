//! The state directory: identity, base model, ledger, checkpoint.
