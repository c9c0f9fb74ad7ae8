//! The mapped tree.
