//! The rules of the queue, one by one: time is a number that the test moves.

mod admission;
mod audit;
mod busy;
mod control;
mod failure;
mod fallback;
mod forget;
mod leave;
mod order;
mod time;
mod window;
mod world;
