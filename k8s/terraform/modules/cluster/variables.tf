variable "name" { type = string }

variable "project" { type = string }

variable "region" { type = string }

variable "zone" {
  description = "The zone of the TPU nodes."
  type        = string
}

variable "network" { type = string }

variable "subnet" {
  description = "A subnet with the secondary ranges pods and services."
  type        = string
}

variable "node_account" { type = string }

variable "channel" { type = string }

variable "min_version" { type = string }

variable "window" {
  type = object({ start = string, end = string, recurrence = string })
}

variable "authorized_networks" { type = map(string) }

variable "system_machine_type" { type = string }

variable "tpu" {
  description = "The output tpu of the module settings."
  type = object({
    machine_type = string
    topology     = string
    hosts        = number
    dranet       = bool
    pools        = map(number)
    labels       = map(string)
    spot         = object({ seconds = number, seconds_of_system = number })
  })
}

variable "reservation" {
  description = "The reservation's name; empty for none."
  type        = string
}

variable "deletion_protection" { type = bool }
