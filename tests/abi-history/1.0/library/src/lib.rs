//! An engine and a plugin that go once through everything: every object on a task's way, handles in both directions,
//! and the host's services.
//!
//! A line behind `// next:` is code that only the *next* ABI can compile. `tests/abi-history/stage.py` takes the marks
//! away when it builds this library against that.

mod engine;
mod plugin;

tcw_abi::export_library! {
    name: "recorded",
    engine: engine::Provider,
    plugins: [plugin::Provider],
}
