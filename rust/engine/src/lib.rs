//! Decides when, in which order and together with what each message of a group chat is handled.
//!
//! A pure state machine: no clock, no threads, no I/O. Producers push into an [`Intake`] from any
//! thread; one owner at a time drives the [`Engine`]: it polls, makes the calls whose leases it is
//! given, and settles them. Every call that depends on time takes `now`.

mod admission;
mod arrival;
mod audit;
mod control;
mod dedup;
mod engine;
mod events;
mod forget;
mod group;
mod ids;
#[doc(hidden)]
pub mod inbox;
mod lane;
mod lease;
mod ledger;
mod message;
mod metrics;
mod names;
mod order;
mod sender;
mod settings;
mod slab;
mod status;
mod time;
mod timers;
mod window;

pub use admission::{Accepted, Intake, Options, Refusal, Refused};
pub use engine::{Ended, Engine, Outbox};
pub use events::Event;
pub use lease::{Batch, BatchMessage, LeaseId, LeaseLost, Outcome};
pub use ledger::{End, Imbalance, Ledger};
pub use message::{Kind, Seq};
pub use metrics::{Histogram, Metrics};
pub use settings::{Lanes, Settings, Size};
pub use status::{MessageName, Status};
pub use time::Time;
pub use window::ClosedBy;
