"""What is compiled: the step, its inputs and its sizes. `antipode plan` needs only this package."""
