//! The half of onebyte that measures: models, data, losses, own gradients, exact weights.

pub mod base;
pub mod data;
mod device;
pub mod embedded;
pub mod kernel;
pub mod model;
pub mod trainer;
pub mod weights;
