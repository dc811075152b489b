//! The manifest of a run whose arithmetic nobody needs: tests of every crate take it and say what is else in theirs.

use protocol::manifest::{
    Appendix, BaseModel, DirectionScale, Groups, Hyperparameters, Manifest, Membership, ObjectiveLine, Origin,
    PROTOCOL_VERSION, Role, Schedule, TensorSpec,
};

/// One tensor of four weights, in one group; anyone may join.
pub fn manifest() -> Manifest {
    let files: [(Role, &str, &[u8]); 3] = [
        (Role::Config, "config.json", b"{}"),
        (Role::Tokenizer, "tokenizer.json", b"{}"),
        (Role::Weights, "model.safetensors", b"weights"),
    ];
    let tensor = TensorSpec {
        name: "w".into(),
        shape: vec![4],
        group: 0,
        range_log2: 0,
        epsilon: 100,
        unit: 1 << 33,
        shift: 0,
        origin: Origin::Base { digest: [0; 32] },
    };
    let hyperparameters = Hyperparameters {
        learning_rate: 3e-4,
        epsilon: 1e-3,
        planned_gradients: 1000,
        direction_scale: DirectionScale::Rms,
    };
    Manifest {
        protocol_version: PROTOCOL_VERSION,
        nonce: [1; 16],
        base: BaseModel::of_files("test", &files, &Appendix::default()).unwrap().0,
        tensors: vec![tensor],
        groups: Groups::equal(1),
        objective: ObjectiveLine::NextToken,
        hyperparameters,
        schedule: Schedule::default(),
        levels: 32,
        ledger_samples_max: 1 << 24,
        replay_budget: 1_000_000,
        membership: Membership::Open,
        authority: None,
        held_out: None,
        private: None,
    }
}
