//! The Python binding of the chinwag engine: arguments in, objects out, errors to exceptions.
//!
//! It has no rules of its own. While the engine is locked no Python code runs: what a call needs is
//! copied into plain structs (a payload by its reference count), and Python objects are made and
//! payloads dropped once the lock is free again.

mod arguments;
mod batch;
mod calls;
mod clock;
mod columns;
mod core;
mod error;
mod events;
mod explain;
mod figures;
mod inner;
mod message;
mod options;
mod push;
mod receipt;
mod receipts;
mod scheduler;
mod settings;

/// The compiled half of chinwag.
#[pyo3::pymodule(gil_used = false)]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::batch::Batch;
    #[pymodule_export]
    use crate::clock::ManualClock;
    #[pymodule_export]
    use crate::core::Core;
    #[pymodule_export]
    use crate::figures::histogram_edges;
    #[pymodule_export]
    use crate::message::Message;
    #[pymodule_export]
    use crate::receipt::Receipt;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let names = [
            "Batch",
            "Core",
            "ManualClock",
            "Message",
            "Receipt",
            "histogram_edges",
        ];
        module.add("__all__", names)
    }
}
