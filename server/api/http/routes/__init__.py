"""The paths and methods of an application, and how its OpenAPI document tells them."""
