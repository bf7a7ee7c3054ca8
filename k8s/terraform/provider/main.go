// Serves the schemas and checks of Google's Terraform provider, for the services that this configuration uses. Tests
// of the configuration run against it offline. It configures no client, so it can make nothing.
package main

import (
	"github.com/hashicorp/terraform-plugin-sdk/v2/helper/schema"
	"github.com/hashicorp/terraform-plugin-sdk/v2/plugin"
	"github.com/hashicorp/terraform-provider-google/google/registry"

	_ "github.com/hashicorp/terraform-provider-google/google/services/cloudquotas"
	_ "github.com/hashicorp/terraform-provider-google/google/services/compute"
	_ "github.com/hashicorp/terraform-provider-google/google/services/container"
	_ "github.com/hashicorp/terraform-provider-google/google/services/dns"
	_ "github.com/hashicorp/terraform-provider-google/google/services/gkehub"
	_ "github.com/hashicorp/terraform-provider-google/google/services/gkehub2"
	_ "github.com/hashicorp/terraform-provider-google/google/services/monitoring"
	_ "github.com/hashicorp/terraform-provider-google/google/services/resourcemanager"
	_ "github.com/hashicorp/terraform-provider-google/google/services/storage"
)

func main() {
	plugin.Serve(&plugin.ServeOpts{
		ProviderAddr: "registry.terraform.io/hashicorp/google",
		ProviderFunc: func() *schema.Provider {
			text := &schema.Schema{Type: schema.TypeString, Optional: true}
			return &schema.Provider{
				Schema:         map[string]*schema.Schema{"project": text, "region": text},
				ResourcesMap:   registry.ResourceMap(),
				DataSourcesMap: registry.DatasourceMap(),
			}
		},
	})
}
