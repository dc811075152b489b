//! The machine's own data: reading, tokenising, batches, held-out windows.
