"""What is compiled: the step, its inputs and sizes. `antipode plan` needs only this part."""
