// Reads a JSON array of questions, writes a JSON array of answers: "Allowed", "ExplicitlyDenied", "ImplicitlyDenied".
import { readFileSync } from 'node:fs'
import { anonymousPrincipal, runSimulation } from '@cloud-copilot/iam-simulate'

const all = { Version: '2012-10-17', Statement: [{ Effect: 'Allow', Action: '*', Resource: '*' }] }
const everything = [{ orgIdentifier: 'o', policies: [{ name: 'all', policy: all }] }]

const answer = async ({ principal, action, resource, owner, context, policy, iam }) => {
  const said = await runSimulation(
    {
      request: {
        principal: principal ?? anonymousPrincipal,
        action,
        resource: { resource, accountId: owner },
        contextVariables: context,
      },
      identityPolicies: iam && principal ? [{ name: 'iam', policy: all }] : [],
      serviceControlPolicies: principal ? everything : [],
      resourceControlPolicies: [],
      resourcePolicy: policy ?? undefined,
    },
    {},
  )
  return said.resultType === 'error' ? `error: ${JSON.stringify(said.errors)}` : said.overallResult
}

const answers = []
for (const question of JSON.parse(readFileSync(0, 'utf8'))) answers.push(await answer(question))
process.stdout.write(JSON.stringify(answers))
