//! Talk with the model: `--serve` on a node that trains, `node serve` and `node chat` on a state directory.
//!
//! | file | noun |
//! |---|---|
//! | `speaker.rs` | the weights to speak with, and an answer from them |
//! | `request.rs` | what a client of the OpenAI kind may ask, checked |
//! | `answer.rs` | what it is told, in one piece or streamed |
//! | `http.rs` | sockets, limits, who may ask |
//! | `page.html` | a small chat for a browser |

mod answer;
mod http;
mod request;
mod speaker;

pub use http::Server;
pub use speaker::{Source, Speaker};
