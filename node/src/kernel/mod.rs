//! Replay kernels: the scalar reference of `protocol::replay`, made fast.
