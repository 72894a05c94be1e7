//! Decides when, in which order and together with what each message of a group chat is handled.
//!
//! A pure state machine: no clock, no threads, no I/O. Producers push into an [`Intake`] from any
//! thread; one owner at a time drives the [`Engine`]: it polls, makes the calls whose leases it is
//! given, and settles them. Every call that depends on time takes `now`.

mod admission;
mod arrival;
mod audit;
mod batch;
mod busy;
mod bypass;
mod context;
mod control;
mod deadlines;
mod dedup;
mod engine;
mod events;
mod explain;
mod failure;
mod fallback;
mod forget;
mod group;
mod held;
mod ids;
#[doc(hidden)]
pub mod inbox;
mod inject;
mod lane;
mod lease;
mod leave;
mod ledger;
mod limits;
mod line;
mod message;
mod metrics;
mod names;
mod order;
mod overflow;
mod overrides;
mod preempt;
mod rate;
mod saved;
mod sender;
mod settings;
mod size;
mod slab;
mod status;
mod strategy;
mod time;
mod timers;
mod typing;
mod window;

pub use admission::{Accepted, Attempt, Intake, Options, Refusal, Refused};
pub use batch::{Batch, BatchMessage};
pub use engine::{Ended, Engine, Outbox};
pub use events::Event;
pub use explain::{Explained, Running, Waiting, WaitsFor};
pub use failure::Failure;
pub use lease::{LeaseId, LeaseLost, Outcome};
pub use ledger::{End, Imbalance, Ledger};
pub use line::Ticket;
pub use message::{Kind, Seq};
pub use metrics::{ByStrategy, Histogram, Metrics};
pub use order::Score;
pub use overrides::LanesInUse;
pub use saved::Unfinished;
pub use settings::{
    Band, FairBy, Interrupted, Jitter, Keep, Lanes, OnBusy, Overflow, Points, Profile, Rate,
    Settings, Size, SizeBy, Strategy, Weight,
};
pub use status::{MessageName, Status};
pub use time::Time;
pub use window::ClosedBy;
